"""Text from elsewhere on its way to a terminal: what could do more than be read is taken out.

A terminal obeys what is printed on it: sequences move over what stands there, rename the window, write the clipboard,
or have the terminal type an answer into the shell. Colours and the like (SGR) stay.
"""

from __future__ import annotations

import codecs
import re

RESET = "\x1b[0m"

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they show text in another order than it has
_PLAIN = bytes([0x09, 0x0A, *range(0x20, 0x7F)])
_SUSPICIOUS = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDI}]")
_TOKEN = re.compile(
    r"(?P<sgr>\x1b\[[0-9;:]{0,64}m)"
    r"|(?P<returns>\r+\n?)"
    r"|\x1b\[[0-?]*[ -/]*[@-~]?"  # any other CSI; each of these may be broken off, by whatever follows
    r"|\x1b[\]PX^_][^\x07\n\x18\x1a\x1b\x9c]*(?:[\x07\x18\x1a\x9c]|\x1b\\)?"  # OSC, DCS, SOS, PM, APC: strings
    r"|\x1b[ -/]*[0-~]?"
    rf"|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f{_BIDI}]+"
)
_STRING_END = re.compile(r"[\x07\n\x18\x1a\x1b\x9c]")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*)?[ -/]*")
_UNFINISHED_STRING = re.compile(r"\x1b[\]PX^_][^\x07\n\x18\x1a\x9c]*")
_LONGEST_HELD = 4096
_LONGEST_STYLE = 256


class Sanitizer:
    """One stream of bytes, cut anywhere. What it lets through is UTF-8 without other controls than \\n, \\t and SGR.

    A return that no newline follows becomes a newline: progress shows line by line and hides nothing. What is not UTF-8
    becomes U+FFFD. A string sequence without an end is over at the end of its line, so that it cannot swallow a log.
    """

    def __init__(self) -> None:
        self.at_line_start = True
        self.style = ""  # the SGR sequences since the last reset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # the beginning of a sequence, or a return
        self._in_string = False
        self._seen_to = 0

    def feed(self, data: bytes) -> bytes:
        """What of the stream's next bytes, and of those held back before, may be shown."""
        is_between = not (self._held or self._in_string or self._decoder.getstate()[0])
        if is_between and data.isascii() and not data.translate(None, _PLAIN):
            if data:
                self.at_line_start = data.endswith(b"\n")
            return data
        return self._text(self._decoder.decode(data)).encode()

    def finish(self) -> bytes:
        """What is left at the end of the stream, and an end of its colours. The next byte begins anew."""
        rest = self._text(self._decoder.decode(b"", final=True))
        self._held, self._in_string = "", False
        if self.style:
            rest += RESET
            self.style = ""
        return rest.encode()

    def _text(self, text: str) -> str:
        if self._in_string:
            text = self._after_string(text)
        text = self._without_unfinished(self._held + text).replace("\r\n", "\n")
        if _SUSPICIOUS.search(text) is None:
            if text:
                self.at_line_start = text.endswith("\n")
            return text
        self._seen_to = 0
        shown = _TOKEN.sub(self._shown, text)
        self._pass(text, len(text))
        return shown

    def _after_string(self, text: str) -> str:
        end = _STRING_END.search(text)
        if end is None:
            return ""
        self._in_string = False
        return text[end.start() :] if end.group() in "\n\x1b" else text[end.end() :]

    def _without_unfinished(self, text: str) -> str:
        """`text` up to a sequence or a return whose end is still to come, which is held back."""
        self._held = ""
        begin = text.rfind("\x1b")  # a later escape ends any sequence
        if begin >= 0 and _UNFINISHED.fullmatch(text, begin):
            self._held = text[begin:]
            if len(self._held) > _LONGEST_HELD:
                # Nothing that long is a colour: of its beginning only the kind is kept.
                self._held = "\x1b[?" if self._held[1] == "[" else "\x1b "
        elif begin >= 0 and _UNFINISHED_STRING.fullmatch(text, begin):
            self._in_string = True
        elif text.endswith("\r"):
            self._held = "\r"
            return text.rstrip("\r")
        else:
            return text
        return text[:begin]

    def _shown(self, match: re.Match[str]) -> str:
        self._pass(match.string, match.start())
        self._seen_to = match.end()
        if match.lastgroup == "sgr":
            self._note_style(match.group())
            return match.group()
        if match.lastgroup == "returns" and (match.group().endswith("\n") or not self.at_line_start):
            self.at_line_start = True
            return "\n"
        return ""

    def _pass(self, text: str, until: int) -> None:
        if until > self._seen_to:
            self.at_line_start = text[until - 1] == "\n"

    def _note_style(self, sequence: str) -> None:
        parameters = sequence[2:-1]
        if not parameters.strip("0;:"):
            self.style = ""
        elif len(self.style) + len(sequence) <= _LONGEST_STYLE:
            self.style += sequence
        else:
            self.style = sequence


def one_line(text: str) -> str:
    """One line that is safe on a terminal: what does not print is shown as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_JSON_CONTROLS = re.compile(f"[\x7f-\x9f{_BIDI}\u2028\u2029]")


def json_text(encoded: bytes) -> str:
    """JSON as text whose strings hold no control characters: those that JSON allows as they are become \\uXXXX."""
    text = encoded.decode()
    if text.isascii() and "\x7f" not in text:
        return text
    return _JSON_CONTROLS.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
