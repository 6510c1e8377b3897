#!/bin/sh
# The training image's job: "make train export" with the same variables, from the environment.
# What was done is skipped, and what was killed goes on: OUTPUT_DIR is kept between attempts.
# Arguments are further options of "python -m training train".
set -eu
recipe=${RECIPE:-article}
variants=${VARIANTS:-all}
seeds=${SEEDS:-0}
runs=$OUTPUT_DIR/runs
models=$OUTPUT_DIR/exported_models

python3 -m training train --recipe "$recipe" --variants "$variants" --seeds "$seeds" --runs "$runs" \
    ${STEPS:+--steps "$STEPS"} ${EPOCHS:+--epochs "$EPOCHS"} ${BATCH:+--batch "$BATCH"} \
    ${LEARNING_RATE:+--learning-rate "$LEARNING_RATE"} "$@"
# Whatever Keras trained with, its nets are exported through TensorFlow.
KERAS_BACKEND=tensorflow python3 -m training export --recipe "$recipe" --variants "$variants" --seed "${seeds%%[ ,-]*}" \
    --runs "$runs" --models "$models" ${REPLACE:+--replace} ${NO_PROMOTE:+--no-promote}
exec python3 -m training compare --recipe "$recipe" --runs "$runs" --to "$models"
