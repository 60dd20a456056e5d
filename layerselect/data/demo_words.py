"""Word tables of the demo corpus: what its rule-made edits replace, add and take out."""

# Clear wording -> wordy ones that a writer would cut down.
WORDY = {
    "because": ["due to the fact that", "for the reason that", "owing to the fact that"],
    # Infinitives only: "in order to the hospital" would be a fluency edit.
    r"to (?=(?:make|send|repair|reach|collect|compare|protect|learn|read|report|plant|change|buy|open)\b)": [
        "in order to ",
        "so as to ",
        "with the aim to ",
    ],
    "many": ["a large number of", "a great many"],
    "most": ["the majority of", "by far the most"],
    "now": ["at this point in time", "at the present time"],
    "can": ["could possibly be able to", "may be able to", "will find it possible to"],
    "cannot": ["could not possibly", "will not find it possible to"],
    "must": ["will be obliged to", "will have no choice but to"],
    "about (?=two|three|thirty|a third|half)": ["somewhere in the area of ", "a number close to "],
    "before (?=the|a|he|she|they)": ["prior to the time when ", "at a time before "],
    "if": ["in the event that", "on the condition that"],
    "use": ["make use of"],
    "uses": ["makes use of"],
    "often": ["on many occasions", "on a regular basis"],
    "until (?=the|a|he|she|they)": ["up until the time when ", "until such time as "],
    "during": ["in the course of", "throughout the duration of"],
    "every": ["each and every"],
    "decided": ["made the decision", "came to the decision"],
    "discussed": ["had a discussion about"],
    "try": ["make an attempt"],
    "explain": ["give an explanation of"],
    "some": ["a certain number of"],
    "very": ["very, very", "extremely and very"],
    "although": ["despite the fact that", "in spite of the fact that"],
    "needs": ["has a need for", "is in need of"],
    "returned": ["returned back again"],
    "return": ["return back again"],
    "near": ["in close proximity to", "in the vicinity of"],
    "also": ["in addition to that also"],
    "enough": ["a sufficient amount of"],
    "under": ["at a place under"],
    "all": ["all of the various"],
    "new": ["new and recent"],
    "first": ["very first initial"],
    "old": ["old and aged"],
    "small": ["small-sized"],
    "large": ["large-sized", "large in terms of size"],
}
# Fillers that are cut for clarity, and opening phrases that say nothing.
FILLERS = ["really", "basically", "actually", "in fact", "more or less", "as such", "in general terms"]
OPENINGS = [
    "It is important to note that",
    "It should be mentioned that",
    "It is a fact that",
    "What can be said is that",
    "One thing to keep in mind is that",
]

# Neutral wording -> casual ones; a style revision goes from the casual to the neutral.
CASUAL = {
    "children": ["kids", "little ones"],
    "people": ["folks", "guys"],
    "pupils": ["kids"],
    "many": ["a lot of", "tons of", "loads of"],
    "very": ["super", "crazy", "totally"],
    "large": ["huge", "big old"],
    "difficult": ["tough", "a pain"],
    "do not": ["don't"],
    "does not": ["doesn't"],
    "did not": ["didn't"],
    "is not": ["isn't", "ain't"],
    "was not": ["wasn't"],
    "cannot": ["can't"],
    "could not": ["couldn't"],
    "food": ["grub"],
    "about (?=two|three|thirty|a third|half)": ["like ", "around "],
    "money": ["cash", "bucks"],
    "repair": ["fix up"],
    "receive": ["get"],
    "students": ["college kids"],
    "was cancelled": ["got axed"],
    "problem": ["mess"],
    "error": ["screw-up"],
    "friends": ["buddies"],
    "thrown away": ["chucked out"],
    "expensive": ["pricey"],
    "fast": ["super quick"],
    "small": ["tiny little"],
    "old": ["ancient"],
    "for a low price": ["for next to nothing"],
    "wants to": ["wanna"],
    "want to": ["wanna"],
    "because": ["'cause", "cos"],
    "understand": ["get"],
    "complain": ["moan"],
    "young": ["wee"],
    "they": ["those guys"],
    "a great": ["a super"],
    "also": ["kinda"],
    "visitors": ["random visitors"],
    "now": ["nowadays like"],
    "adults": ["grown-ups"],
    "police": ["cops"],
    "more than": ["over like"],
}
# Neutral wording -> formal ones; a style revision goes from the neutral to the formal.
FORMAL = {
    "buy": ["purchase"],
    "need": ["require"],
    "needs": ["requires"],
    "help": ["assist"],
    "begins": ["commences"],
    "begin": ["commence"],
    "began": ["commenced"],
    "about (?=two|three|thirty|a third|half)": ["approximately "],
    "enough": ["sufficient"],
    "cheap": ["inexpensive"],
    "wants to": ["wishes to"],
    "want to": ["wish to"],
    "says": ["states"],
    "say": ["state"],
    "shows": ["displays"],
    "gives": ["provides"],
    "takes": ["requires"],
    "use": ["employ"],
    "live": ["reside"],
    "lives": ["resides"],
    "asked": ["requested"],
    "leave": ["depart"],
    "try": ["attempt"],
    "built": ["constructed"],
    "more than": ["in excess of"],
}
CHATTER = ["honestly,", "you know,", "like,", "well,", "I mean,", "no joke,"]

CONNECTIVES = {
    "cause": ["As a result,", "Therefore,", "For this reason,", "Consequently,"],
    "contrast": ["However,", "Even so,", "In contrast,", "Nevertheless,"],
    "add": ["In addition,", "Moreover,", "Furthermore,", "Besides,"],
    "time": ["Afterwards,", "Later,", "After that,", "Some time later,"],
    "example": ["For example,", "For instance,", "To give an example,"],
}
CASUAL_CONNECTIVES = {
    "cause": "So yeah,",
    "contrast": "But hey,",
    "add": "Plus,",
    "time": "And then,",
    "example": "Like,",
}
JOINTS = [
    (", but ", ". However, "),
    (", so ", ". Therefore, "),
    (", and ", ". In addition, "),
    (" because ", ". The reason is that "),
    (", although ", ". This is so although "),
    (", which ", ". This "),
    (", since ", ". This is because "),
]

# Pairs that change what is said; either member may come first.
OPPOSITES = [
    ("many", "few"), ("most", "some"), ("all", "some"), ("before", "after"), ("more", "less"), ("first", "last"),
    ("can", "cannot"), ("must", "may"), ("must", "need not"), ("often", "rarely"), ("every", "every second"),
    ("old", "new"), ("small", "large"), ("north", "south"), ("east", "west"), ("half", "a third"),
    ("minutes", "hours"), ("days", "weeks"), ("weeks", "months"), ("year", "month"), ("morning", "evening"),
    ("spring", "autumn"), ("summer", "winter"), ("near", "far from"), ("behind", "in front of"), ("cheap", "free"),
    ("children", "adults"), ("customers", "tourists"), ("teacher", "parent"), ("students", "teachers"),
    ("red", "blue"), ("higher", "lower"), ("with", "without"), ("longer", "shorter"), ("is not", "is"),
    ("does not", "does"), ("cannot", "can"), ("was not", "was"), ("always", "never"), ("only", "not only"),
]  # fmt: skip
NUMBERS = [
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "fifteen",
    "sixteen", "twenty", "thirty", "forty", "sixty",
]  # fmt: skip
DAYS = [
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
]  # fmt: skip
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
]  # fmt: skip
PLACES = [
    "Norden", "Altdorf", "Bergen", "Lindau", "Oberau", "Zurich", "Vienna", "Hanoi", "Leipzig", "Seehafen",
    "Kirchberg", "Holzdorf", "Estonia", "Denmark",
]  # fmt: skip

# Wrong and right forms of the same word (fluency).
FORMS = [
    ("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"), ("a", "an"), ("than", "then"), ("there", "their"),
    ("its", "it's"), ("to", "too"), ("lose", "loose"), ("who", "which"), ("in", "on"), ("at", "in"), ("for", "since"),
    ("of", "from"), ("from", "of"), ("on", "at"), ("much", "many"), ("these", "this"), ("were", "was"),
    ("are", "is"), ("have", "has"), ("do", "does"), ("by", "from"), ("with", "by"), ("costs", "cost"),
]  # fmt: skip
VERBS = [
    "opens", "buy", "reaches", "begins", "checks", "return", "lends", "borrow", "helps", "connects", "say",
    "decide", "shows", "needs", "meets", "listens", "repairs", "teach", "holds", "pays", "prepares",
    "measures", "wins", "trains", "fly", "follow", "sell", "plays", "produce", "carries", "reads", "arrive",
    "stops", "lose", "solve", "stays", "wants", "closes", "takes", "enter", "speaks", "crosses", "wait",
    "changes", "lies", "runs", "works", "costs", "weighs", "sets", "learn", "walk", "fears", "lasts", "cook",
    "make", "dry", "fits", "live", "agree", "explains", "asks", "answer", "finish", "matters", "adds",
]  # fmt: skip
