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
    ("guide", "guides"), ("visitor", "visitors"), ("pupil", "pupils"), ("nurse", "nurses"),
]  # fmt: skip
LIKES = [("knows", "know"), ("likes", "like"), ("admires", "admire")]
DOES = ["sing", "work", "talk", "rest"]

# Verbs in the present and the past.
TENSES = [
    ("visit", "visited"), ("clean", "cleaned"), ("watch", "watched"), ("paint", "painted"),
]  # fmt: skip
PAST = ["last year", "yesterday", "long ago"]
PRESENT = ["nowadays", "these days", "at present"]
ANY_TIME = ["in winter", "on holidays", "at night"]

DAYS = ["Monday", "Thursday", "Saturday"]
NUMBERS = ["two", "three", "five"]

# Two words for one thing.
TERMS = [
    ("children", "kids"), ("films", "movies"), ("photos", "pictures"), ("cars", "automobiles"),
]  # fmt: skip

# Details of time and place: as a sentence may begin with them, and as they may stand at its end.
SEASONS = [("every winter", "in winter"), ("every summer", "in summer")]
HOURS = [("every morning", "in the morning"), ("every evening", "in the evening")]
PLACES = [("in the garden", "in the garden"), ("at the gate", "at the gate"), ("on the stairs", "on the stairs")]

# How far: what has degrees, and what is so or is not.
DEGREES = ["very", "really", "quite"]
GRADED = ["cold", "busy", "dark"]
ABSOLUTE = ["empty", "unique", "closed"]
OPPOSITES = [("open", "closed"), ("cold", "warm"), ("new", "old")]

# An adjective and another: much the same beside the nouns of the first list, different things beside those of the second.
SENSES = [
    ("funny", "strange", ["smell", "noise"], ["story", "joke"]),
    ("old", "former", ["mayor", "owner"], ["castle", "coin"]),
]
NOUNS = ["tower", "clock", "lamp", "statue"]
RANKS = ["first", "oldest", "same"]

# What may stand in front of a sentence and behind it without any bearing on the edit.
OPENINGS = ["as we heard, ", "it is said that ", "of course, "]
ENDINGS = [" as usual", " for a while", " once more", " in the rain"]
