"""Use the model of examples/titanic.py as a function in SQL and in data frames."""

import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import nfm


def main() -> None:
    """Score a view twice: with SQL, and with a data frame."""
    model = sys.argv[1] if len(sys.argv) > 1 else "build/titanic/model"
    spark = SparkSession.builder.getOrCreate()
    passengers = spark.read.csv("tests/data/titanic.csv", header=True, inferSchema=True, escape='"')
    passengers.createOrReplaceTempView("passengers")

    score = nfm.score_udf(model)
    spark.udf.register("nfm_score", score)
    spark.sql("""
        select Pclass, Sex, count(*) as passengers, avg(nfm_score(struct(*))) as score
        from passengers group by Pclass, Sex order by score desc
    """).show()
    passengers.select("Name", score(F.struct("*")).alias("score")).orderBy(F.desc("score")).show(5, truncate=False)
    spark.stop()


if __name__ == "__main__":
    main()
