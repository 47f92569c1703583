"""Event files, as TensorBoard shows them; written without the tensorboard package."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import tensorflow as tf

log = logging.getLogger(__name__)

Write = Callable[[int, Mapping[str, float]], None]

# What TensorBoard knows a scalar by.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
    data_class=1,  # DATA_CLASS_SCALAR
)


@contextmanager
def events(folder: Path | None, fresh: bool) -> Iterator[Write]:
    """Yield a function that writes an epoch's values, by name, so that they can be seen at once; no folder: nothing.

    A killed training may write its last epoch's values again, and they are the same. A folder that cannot be written to
    is logged, and the training continues. `fresh`: earlier event files are deleted; otherwise they are continued.
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
            _told(folder, error)
            writer = None

    if folder is not None:
        try:
            if fresh:
                clear(folder)
            writer = tf.summary.create_file_writer(str(folder))
        except (OSError, tf.errors.OpError) as error:
            _told(folder, error)
    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


def clear(folder: Path) -> None:
    """Remove the event files of an earlier training, and nothing else."""
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()


def remove(folder: Path) -> None:
    """Clear a folder that nothing is to be written to any more; the folder goes, too, if nothing else is in it."""
    with suppress(OSError):  # what others have put there keeps the folder
        clear(folder)
        folder.rmdir()


def _told(folder: Path | None, error: Exception) -> None:
    reason = str(error).splitlines()[0]
    log.warning("TensorBoard's events cannot be written to %s (%s): the training goes on without", folder, reason)
