"""What befell one file. Another file is never harmed by it."""

from __future__ import annotations

from kagura_tasks.errors.base import KaguraTasksError


class FileError(KaguraTasksError):
    """One file could not be made into a document. The others of its folder were."""

    def __init__(self, path: str) -> None:
        """Take the path relative to the root that was named."""
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        """Name the file, and say what is wrong."""
        return f"{self.path}: {self.reason}"

    @property
    def reason(self) -> str:
        """What is wrong and how to mend it, without the path."""
        return "could not be loaded"

    @property
    def is_passed_over(self) -> bool:
        """Nobody promised to read it: its row says "skipped", and it is no failure."""
        return False


class _BecauseOf(FileError):
    """A file, and the reason in a few words of ours: a parser's own text may quote the file."""

    def __init__(self, path: str, why: str = "") -> None:
        """Take the relative path, and the reason in a few words."""
        KaguraTasksError.__init__(self, path, why)
        self.path = path
        self.why = why

    @property
    def reason(self) -> str:
        """The reason."""
        return self.why


class FileNotAllowed(_BecauseOf):
    """It is outside of the root or of the allowed roots, a link that leads out, or no regular file. Not opened."""


class FileUnreadable(_BecauseOf):
    """The operating system does not give it: no permission, gone since the scan, changed while it was read."""


class FileDamaged(_BecauseOf):
    """It is not what its type promises: cut off, or broken inside."""

    @property
    def reason(self) -> str:
        """Say that the content is at fault."""
        return f"is damaged ({self.why})"


class FileEncrypted(FileError):
    """It has a password."""

    @property
    def reason(self) -> str:
        """Say how to mend it."""
        return "has a password: save it without one"


class FileTooLarge(FileError):
    """More than a limit allows: bytes, pages, unpacked bytes, characters of text, levels."""

    def __init__(self, path: str, found: int, limit: int, unit: str, setting: str = "") -> None:
        """Take how many of which unit there are (or so many were counted before it was given up), and the limit."""
        KaguraTasksError.__init__(self, path, found, limit, unit, setting)
        self.path = path
        self.found = found
        self.limit = limit
        self.unit = unit
        self.setting = setting

    @property
    def reason(self) -> str:
        """Say both numbers, and the setting that moves the limit."""
        mend = f": raise {self.setting}" if self.setting else ""
        return f"has {self.found:,} {self.unit} and the limit is {self.limit:,}{mend}"


class ArchiveBomb(FileError):
    """Packed so tightly that no honest document is: it would unpack into memory without end."""

    def __init__(self, path: str, packed_bytes: int, unpacked_bytes: int) -> None:
        """Take how much of it was read, and what that came to, when it was given up."""
        KaguraTasksError.__init__(self, path, packed_bytes, unpacked_bytes)
        self.path = path
        self.packed_bytes = packed_bytes
        self.unpacked_bytes = unpacked_bytes

    @property
    def reason(self) -> str:
        """Say both sizes."""
        return f"unpacks {self.packed_bytes:,} bytes to more than {self.unpacked_bytes:,}: it is a bomb, not a document"


class UnsupportedFile(FileError):
    """Nothing here reads this type, or what reads it is not installed."""

    def __init__(self, path: str, media_type: str, extra: str = "") -> None:
        """Take the type, and the extra of this package that reads it, if there is one."""
        KaguraTasksError.__init__(self, path, media_type, extra)
        self.path = path
        self.media_type = media_type
        self.extra = extra

    @property
    def is_passed_over(self) -> bool:
        """Unless it can be mended."""
        return not self.extra

    @property
    def reason(self) -> str:
        """Name the type, and the extra."""
        if self.extra:
            return f"is {self.media_type}: pip install 'kagura-tasks[{self.extra}]' to read it"
        return f"is {self.media_type}, which is not read"


class FileEmpty(FileError):
    """There is no text in it, and no picture or sound: a model could not say anything of it."""

    @property
    def is_passed_over(self) -> bool:
        """Always."""
        return True

    @property
    def reason(self) -> str:
        """Say so."""
        return "has nothing to read"


class ParserTimeout(FileError):
    """The parser was still at it at its limit, and was ended."""

    def __init__(self, path: str, limit_s: float) -> None:
        """Take the limit (s)."""
        KaguraTasksError.__init__(self, path, limit_s)
        self.path = path
        self.limit_s = limit_s

    @property
    def reason(self) -> str:
        """Name the limit."""
        return f"was not parsed within {self.limit_s:g} s (KAGURA_TASKS_FILE_PARSE_TIMEOUT_S)"


class ParserDied(_BecauseOf):
    """The process that parsed it died: out of memory, a crash, or it answered what is no answer."""

    @property
    def reason(self) -> str:
        """Say how it died."""
        return f"ended its parser ({self.why})"


class PartRefused(FileError):
    """The model's provider does not take this kind of content; nothing was sent. LiteLLM may drop it without a word."""

    def __init__(self, path: str, kind: str, model: str) -> None:
        """Take the kind of content (image, audio, video, pdf) and the model that was to have it."""
        KaguraTasksError.__init__(self, path, kind, model)
        self.path = path
        self.kind = kind
        self.model = model

    @property
    def reason(self) -> str:
        """Name both."""
        return f"is {self.kind}, which {self.model} is not known to take: choose a model of another provider"
