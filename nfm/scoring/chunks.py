"""Record of the stored scores of one split, which a resumed run reads."""

import json
from dataclasses import dataclass, field
from typing import Self

from nfm.scoring.health.tally import Tally
from nfm.table.write import WrittenFile


@dataclass(frozen=True)
class Chunk:
    """Stored scores of one split."""

    number: int  # of the split; with `scan: spark`, of the partition
    tally: Tally
    files: list[WrittenFile]
    keys: list[WrittenFile] = field(default_factory=list)  # hashes of the rows' keys

    @property
    def all_files(self) -> list[WrittenFile]:
        """Files of scores and of hashes."""
        return [*self.files, *self.keys]

    def to_json(self) -> str:
        """Return the record as JSON."""
        files, keys = ([vars(file) for file in files] for files in (self.files, self.keys))
        return json.dumps({"number": self.number, "files": files, "keys": keys, "tally": self.tally.to_json()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the record that `to_json` returns."""
        content = json.loads(text)
        files, keys = ([WrittenFile(**file) for file in content[kind]] for kind in ("files", "keys"))
        return cls(content["number"], Tally.from_json(content["tally"]), files, keys)
