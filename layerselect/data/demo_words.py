"""Word tables of the demo corpus: one topic for each document, and the words that the edits of all documents share."""

from __future__ import annotations

# One document each: its place in the singular and the plural, and things that are found there. These words stand in no
# other document, so a model that is tested on a document has not seen them.
TOPICS = """
museum museums paintings | bakery bakeries loaves | harbour harbours anchors | library libraries novels |
station stations platforms | hospital hospitals beds | theatre theatres curtains | market markets vegetables |
orchard orchards apples | vineyard vineyards grapes | observatory observatories telescopes | zoo zoos tigers |
airport airports runways | brewery breweries barrels | cinema cinemas posters | church churches bells |
factory factories machines | forge forges hammers | greenhouse greenhouses orchids | gallery galleries drawings |
hotel hotels suitcases | island islands seals | laundry laundries shirts | lighthouse lighthouses lanterns |
monastery monasteries candles | nursery nurseries seedlings | office offices desks | palace palaces mirrors |
pharmacy pharmacies medicines | prison prisons locks | quarry quarries blocks | restaurant restaurants menus |
sawmill sawmills planks | shipyard shipyards hulls | stable stables horses | stadium stadiums benches |
studio studios cameras | swamp swamps frogs | tavern taverns mugs | temple temples pillars |
university universities lectures | village villages wells | warehouse warehouses crates | workshop workshops tools |
aquarium aquariums sharks | archive archives maps | arena arenas flags | dairy dairies cheeses |
dormitory dormitories blankets | embassy embassies passports | fortress fortresses cannons | glacier glaciers crevices |
jungle jungles parrots | kiosk kiosks newspapers | lagoon lagoons turtles | meadow meadows sheep |
mine mines tunnels | pier piers ropes | ranch ranches saddles | reservoir reservoirs pipes |
casino casinos dice | circus circuses clowns | college colleges notebooks | courthouse courthouses judges
"""

# People, in the singular and the plural.
PEOPLE = [
    ("guide", "guides"), ("visitor", "visitors"), ("pupil", "pupils"), ("teacher", "teachers"), ("driver", "drivers"),
    ("cook", "cooks"), ("painter", "painters"), ("farmer", "farmers"), ("nurse", "nurses"), ("student", "students"),
]  # fmt: skip
LIKES = [("knows", "know"), ("likes", "like"), ("describes", "describe"), ("admires", "admire"), ("remembers", "remember")]
DOES = ["sing", "work", "talk", "rest", "read", "wait", "eat"]

# Verbs in the present and the past.
TENSES = [
    ("visit", "visited"), ("open", "opened"), ("close", "closed"), ("clean", "cleaned"), ("repair", "repaired"),
    ("check", "checked"), ("watch", "watched"), ("paint", "painted"),
]  # fmt: skip
PAST = ["last year", "yesterday", "two weeks ago", "a century ago", "last Monday", "long ago"]
PRESENT = ["nowadays", "these days", "at present", "at the moment", "now", "today"]
ANY_TIME = ["in winter", "on holidays", "before noon", "after lunch", "on Sundays", "at night"]

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
NUMBERS = ["two", "three", "four", "five", "six", "seven"]

# Two words for one thing.
TERMS = [
    ("children", "kids"), ("films", "movies"), ("photos", "pictures"), ("cars", "automobiles"), ("shops", "stores"),
    ("bicycles", "bikes"), ("gifts", "presents"), ("boats", "ships"),
]  # fmt: skip

# Details of time and place: as a sentence may begin with them, and as they may stand at its end.
SEASONS = [("every winter", "in winter"), ("every summer", "in summer")]
HOURS = [("every morning", "in the morning"), ("every evening", "in the evening")]
PLACES = [("in the garden", "in the garden"), ("at the gate", "at the gate"), ("on the stairs", "on the stairs")]

# How far: what has degrees, and what is so or is not.
DEGREES = ["very", "really", "quite", "extremely"]
GRADED = ["cold", "busy", "quiet", "dark", "crowded", "dirty"]
ABSOLUTE = ["empty", "full", "unique", "perfect", "complete", "closed"]
OPPOSITES = [("open", "closed"), ("empty", "full"), ("cold", "warm"), ("dark", "bright"), ("new", "old"), ("quiet", "loud")]

# An adjective and another: much the same beside the nouns of the first list, different things beside those of the second.
SENSES = [
    ("funny", "strange", ["smell", "noise", "taste"], ["story", "joke", "play"]),
    ("great", "large", ["hall", "crowd", "tower"], ["singer", "idea", "friend"]),
    ("poor", "bad", ["harvest", "start", "result"], ["family", "widow", "beggar"]),
    ("old", "former", ["mayor", "owner", "boss"], ["castle", "coin", "oak"]),
    ("cool", "nice", ["party", "song", "hat"], ["wind", "drink", "cellar"]),
]
NOUNS = ["tower", "clock", "lamp", "statue", "fountain", "piano", "stove", "mill"]
RANKS = ["first", "best", "oldest", "only", "last", "same"]

# What may stand in front of a sentence and behind it without any bearing on the edit.
OPENINGS = ["as we heard, ", "it is said that ", "we read that ", "of course, ", "in the north, ", "in our town, "]
ENDINGS = [" as usual", " without a word", " for a while", " with great care", " once more", " for our sake", " in the rain"]
