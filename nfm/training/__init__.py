"""The training job: TensorFlow reads the dataset and writes the artifact."""

import os

# Both are read when TensorFlow and Keras are first imported, which the modules of this package do.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"
