"""Write event files for TensorBoard, without the tensorboard package."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import tensorflow as tf

log = logging.getLogger(__name__)

Write = Callable[[int, Mapping[str, float]], None]

# Metadata by which TensorBoard recognizes a scalar.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
    data_class=1,  # DATA_CLASS_SCALAR
)


@contextmanager
def open_writer(folder: Path | None, fresh: bool) -> Iterator[Write]:
    """Yield a function that writes the values of an epoch, by name, and flushes them; without a folder it does nothing.

    `fresh`: earlier event files are deleted; otherwise new ones are added to them. A resumed training may write the
    values of its last epoch again; they are the same. A folder that cannot be written to is logged, and the training
    continues without events.
    """
    writer = None

    def write(epoch: int, values: Mapping[str, float]) -> None:
        nonlocal writer
        if writer is None:
            return
        try:
            with writer.as_default(step=epoch):
                for name, value in values.items():
                    tf.summary.write(name, tf.constant(value, tf.float32), metadata=_SCALAR)
                writer.flush()
        except tf.errors.OpError as error:
            _log_failure(folder, error)
            writer = None

    if folder is not None:
        try:
            if fresh:
                clear(folder)
            writer = tf.summary.create_file_writer(str(folder))
        except (OSError, tf.errors.OpError) as error:
            _log_failure(folder, error)
    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


def clear(folder: Path) -> None:
    """Delete the event files of an earlier training, and no other files."""
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()


def remove(folder: Path) -> None:
    """Delete the event files of a folder that is no longer used, and the folder if it is then empty."""
    with suppress(OSError):  # the folder stays if it contains other files
        clear(folder)
        folder.rmdir()


def _log_failure(folder: Path | None, error: Exception) -> None:
    reason = str(error).splitlines()[0]
    log.warning(
        "events for TensorBoard cannot be written to %s (%s): the training continues without them", folder, reason
    )
