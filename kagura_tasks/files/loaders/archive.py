"""Files that are archives: opened with an eye on what they unpack to. What they say of themselves is not believed."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final

from kagura_tasks.errors import ArchiveBomb, FileDamaged, FileEncrypted
from kagura_tasks.files.loaders.source import Source

#: Text and tables are packed to a tenth, the emptiest sheets to a hundredth. DEFLATE ends at a thousandth.
_MAX_RATIO: Final = 200
#: Below this, tightly packed is only well packed.
_HARMLESS_BYTES: Final = 20_000_000
_MAX_MEMBERS: Final = 20_000
_PIECE_BYTES: Final = 1 << 16
_IS_ENCRYPTED: Final = 0x1


class Archive:
    """A zip file, of which no more is unpacked in all than the limits allow. Archives in it stay closed."""

    def __init__(self, source: Source) -> None:
        """Read its directory. Raises FileDamaged, FileEncrypted, ArchiveBomb or FileTooLarge."""
        self._source = source
        self._unpacked_bytes = 0
        with self._damage_named():
            self._zip = zipfile.ZipFile(source.file)
        members = self._zip.infolist()
        if any(member.flag_bits & _IS_ENCRYPTED for member in members):
            raise FileEncrypted(source.path)
        if len(members) > _MAX_MEMBERS:
            raise FileDamaged(source.path, f"its archive has {len(members):,} members")
        self._check(sum(member.file_size for member in members), source.size_bytes)

    def names(self) -> list[str]:
        """The names of its members."""
        return self._zip.namelist()

    def read(self, name: str) -> bytes:
        """A member, unpacked. Raises FileDamaged where there is none, ArchiveBomb or FileTooLarge."""
        return b"".join(self._pieces(self._member(name)))

    def check_all(self) -> None:
        """Unpack everything once, for whoever will do so without counting. Keeps nothing."""
        for member in self._zip.infolist():
            for _ in self._pieces(member):
                pass

    def _member(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._zip.getinfo(name)
        except KeyError:
            raise FileDamaged(self._source.path, "a part of it is missing") from None

    def _pieces(self, member: zipfile.ZipInfo) -> Iterator[bytes]:
        # zipfile gives no more than the directory says that there is, and then finds that the checksum is another.
        with self._damage_named(), self._zip.open(member) as file:
            while piece := file.read(_PIECE_BYTES):
                self._unpacked_bytes += len(piece)
                self._check(self._unpacked_bytes, self._source.size_bytes)
                yield piece

    @contextmanager
    def _damage_named(self) -> Generator[None]:
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, EOFError):
            raise FileDamaged(self._source.path, "its archive is cut off or broken") from None
        except RuntimeError:
            # zipfile has no other class for a compression, a version or an encryption that it does not know.
            raise FileDamaged(self._source.path, "its archive is packed in a way that is not read here") from None

    def _check(self, unpacked_bytes: int, packed_bytes: int) -> None:
        if unpacked_bytes > max(_HARMLESS_BYTES, _MAX_RATIO * packed_bytes):
            raise ArchiveBomb(self._source.path, packed_bytes, unpacked_bytes)
        if unpacked_bytes > self._source.limits.max_unpacked_bytes:
            raise self._source.too_large(unpacked_bytes, "max_unpacked_bytes", "bytes unpacked")
