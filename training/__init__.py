"""Fits, freezes, exports and reports; uses Keras, which the service never does.

In the order of the data:

    recipes, variants       what is trained, and how, as data
    data, dataset           the data sets (cifar100, synthetic) in one form
    trial, record           one trial's folder, and what it says of itself
    nets, mixed             the nets; batch normalization in mixed precision
    augment, optimizers     a step's pictures; what it minimizes and how
    step, loop, fit         one step, many in one execution, a whole trial (checkpoint, evaluate)
    spread, cluster         many trials: in processes of this machine, on a Ray cluster
    freeze, ablation        population statistics; where their gain comes from
    export                  ONNX (graph) with its model card (card), checked against Keras (parity),
                            published (repository, triton, promote)
    compare                 the study's table and curves (seeds, table, figure)
    demo                    all of it at once
    cli, options, lists     the commands; missing names the trials that they lack
    environment, backend    the tools and hardware, for the records; Keras' backend, set up
    files                   writes files atomically
"""
