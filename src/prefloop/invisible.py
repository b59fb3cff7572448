"""Lists characters that show nothing, for everything that must not let a text differ from what people see of it."""

# These are the insides of a regular expression's brackets: C0 and C1 controls but tab and newline, Unicode's
# default-ignorable characters, fillers that are blank letters, line and paragraph separators.
INVISIBLE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
# Letters and marks among them are blank: their category in Unicode does not tell that they show nothing.
BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\uffa0"
