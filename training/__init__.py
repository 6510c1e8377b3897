"""Fits, freezes, exports and reports; the only place that knows Keras.

In the order of the data:

    recipes, variants       what is trained, and how, as data
    data                    the data sets: cifar100, synthetic
    trial, record           one trial's folder, and what it says of itself
    nets, mixed             the nets; batch normalization in mixed precision
    augment, optimizers     a step's pictures; what it minimizes and how
    step, loop, fit         one step, many in one execution, a whole trial (checkpoint, evaluate)
    spread, cluster         many trials: in processes of this machine, on a Ray cluster
    freeze, ablation        population statistics; where their gain comes from
    export                  ONNX (graph) with its card, proved (parity), published (repository,
                            triton, promote)
    compare                 the study's table and curves (seeds, table, figure)
    demo                    all of it at once
    cli, options, lists     the commands; missing says what they lack
    environment, backend    with what all this was computed; Keras' backend, told how
    files                   written in one step
"""
