"""The service: loads exported models, checks them, and answers pictures over HTTP.

In the order in which a request meets them:

    server, worker          gunicorn's supervisor, and a process for every CPU
    http/                   HTTP/1.1 on the worker's event loop, up to a WSGI application
    gate, finish            before and after Flask: what is refused at once; headers, counts, log
    app                     the Flask application, of:
        api                 POST /predict and /compare, GET /models
        oip/                the Open Inference Protocol under /v2
        site/               the page, its answers and its files
        docs/               the OpenAPI document and /docs
        health, metrics     for orchestrators and Prometheus
        operations, keys        what a view takes and answers, declared; who may call it
    uploads, pictures       a request's pictures: found (files, forms), trimmed (trim, upright),
                            decoded (decoding: the large ones, in threads)
        compute, engine         which pictures are computed together, and when (gpu: is it working?)
    models/                 the repository: manifest, cards, ONNX Runtime's sessions
    answers, problems       probabilities, and errors, as an answer

``settings`` are read once; ``state`` is what a worker holds between requests. A module imports only
modules of the layers below its own (the contracts in ``pyproject.toml``).
"""

__version__ = "0.1.0"
