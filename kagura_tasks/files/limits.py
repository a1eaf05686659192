"""How much a file may ask of us. The parser's process knows this, too: nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class FileLimits:
    """Limits for one file. What is above one of them fails alone, with an error that names the setting.

    Attributes:
        max_bytes: Size on the disk.
        max_media_bytes: Size of pictures, of a recording or of a film, which travel to the model as they are.
        max_unpacked_bytes: What a file that is an archive (DOCX, XLSX, PPTX, EPUB) holds when it is unpacked.
        max_pages: Pages, slides, sheets or chapters.
        max_text_chars: Characters of a document's text.
        max_image_px: Longest side of a picture; a larger one is scaled down where Pillow is installed.
        parse_timeout_s: Seconds of wall clock for one file.
        parse_memory_bytes: Memory of the process that parses.
    """

    max_bytes: int = 50_000_000
    max_media_bytes: int = 20_000_000
    max_unpacked_bytes: int = 200_000_000
    max_pages: int = 2_000
    max_text_chars: int = 5_000_000
    max_image_px: int = 2_048
    parse_timeout_s: float = 60.0
    parse_memory_bytes: int = 512_000_000

    def __post_init__(self) -> None:
        """A limit of nothing would refuse everything."""
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}: a limit is above 0")

    @property
    def max_answer_bytes(self) -> int:
        """What a parser may answer: JSON writes a character in up to 6 bytes, and media in 4 for 3."""
        return 6 * self.max_text_chars + 2 * self.max_media_bytes + 1_000_000


def setting_of(limit: str) -> str:
    """The variable that moves a limit."""
    return f"KAGURA_TASKS_FILE_{limit.upper()}"
