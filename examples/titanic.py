"""Train on the Titanic's passengers and score them in this process, with reasons."""

import sys

import pandas as pd

import nfm


def main() -> None:
    """Make features, train, score."""
    config = nfm.load_config("conf/titanic.yaml", sys.argv[1:])
    nfm.build_features(config)  # Spark
    trained = nfm.train(config)  # TensorFlow
    print(f"test AUC {trained.metrics['test']['auc']:.3f}; report: {trained.report}")

    passengers = pd.read_csv("tests/data/titanic.csv")
    model = nfm.load_model(trained.model)  # neither Spark nor TensorFlow
    scored = passengers[["Name", "Survived"]].join(model.score(passengers, explain=2))
    print(scored.sort_values("score", ascending=False).head(10).to_string(index=False))


if __name__ == "__main__":
    main()
