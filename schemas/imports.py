"""What the API answers about files on their way in (tệp khai báo)."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from schemas.stay import BatchResult, Output


class ImportState(Output):
    """How far a file has come. done = accepted + duplicate + expected + refused."""

    import_id: str
    facility: str
    connector: str
    state: Literal["waiting", "running", "finished", "failed"] = Field(
        description="failed: nothing of the file could be taken; its report says why"
    )
    received_at: datetime = Field(description="When the upload was complete: it decides lateness")
    started_at: datetime | None
    finished_at: datetime | None
    rows: int | None = Field(description="Rows in the file; null until it is read")
    done: int
    accepted: int
    duplicate: int
    expected: int
    refused: int
    rows_per_second: float | None
    has_file: bool = Field(description="Whether the file is still kept (sealed), and can be fetched with its errors")


class ImportStates(Output):
    """The newest files of the facilities that the key may declare for, newest first."""

    imports: list[ImportState]


class ImportReport(BatchResult):
    """The result of every row so far, in the order of the file, and the job itself.

    Without personal data: no `source_ref`, and of a receipt its code and address only.
    """

    job: ImportState
