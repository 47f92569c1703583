"""The train job: fit a Neural Factorization Machine to the dataset with TensorFlow, and write the model."""

import os
import sys
import tempfile

# TensorFlow and Keras read both variables when they are first imported, which the modules of this package do. Level 3
# silences TensorFlow's own log, where a missing GPU is an error; errors of a training are raised as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"


def _import_tensorflow() -> None:
    """Import TensorFlow without the lines that its C++ libraries print about themselves.

    They report on oneDNN and CUDA before they read a log level. If the import fails, they are shown.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


_import_tensorflow()
