# Read by Spark's bin/spark-class, which starts the JVM by `exec java … --add-modules=jdk.incubator.vector …`. That module
# serves Spark ML only, and the JVM warns about it at every start: leave it out. No option of Spark does that.
exec() {
    local argument arguments=()
    for argument in "$@"; do
        [[ $argument == --add-modules=jdk.incubator.vector ]] || arguments+=("$argument")
    done
    unset -f exec
    builtin exec "${arguments[@]}"
}
