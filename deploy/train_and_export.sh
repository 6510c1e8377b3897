#!/bin/sh
# The training image's job: "make train export" with the same variables, from the environment.
# What was done is skipped, and what was killed goes on: OUTPUT_DIR is kept between attempts.
# Arguments are further options of "python -m training train".
set -eu
recipe=${RECIPE:-article}
variants=${VARIANTS:-all}
seeds=${SEEDS:-0}
for given in "REPLACE=${REPLACE:-}" "NO_PROMOTE=${NO_PROMOTE:-}"; do
    case ${given#*=} in
        "" | 1) ;;
        *) echo "$given: it is 1, or left out" >&2; exit 2 ;;
    esac
done
runs=$OUTPUT_DIR/runs
models=$OUTPUT_DIR/exported_models

# Process 1 of a container is sent no signal that it does not ask for, and a shell that waits for a
# program in front would heed none before the program's end. So each runs behind, and is told.
end() {
    if [ -n "${!:-}" ]; then
        kill "$!" 2>/dev/null || true
        wait "$!" || true
    fi
    exit "$1"
}
trap 'end 143' TERM  # docker stop, a node that is drained
trap 'end 130' INT   # Ctrl-C
run() {
    "$@" &
    wait "$!"
}

run python3 -m training train --recipe "$recipe" --variants "$variants" --seeds "$seeds" --runs "$runs" \
    ${STEPS:+--steps "$STEPS"} ${EPOCHS:+--epochs "$EPOCHS"} ${BATCH:+--batch "$BATCH"} \
    ${LEARNING_RATE:+--learning-rate "$LEARNING_RATE"} "$@"
# Whatever Keras trained with, its nets are exported through TensorFlow. Of the seeds --seed takes the first.
run env KERAS_BACKEND=tensorflow python3 -m training export --recipe "$recipe" --variants "$variants" \
    --seed "$seeds" --runs "$runs" --models "$models" ${REPLACE:+--replace} ${NO_PROMOTE:+--no-promote}
run python3 -m training compare --recipe "$recipe" --runs "$runs" --to "$models"
