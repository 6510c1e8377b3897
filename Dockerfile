# Two targets:
#   docker build --target service .     the service on the CPU or GPU, models baked in
#   docker build --target training .    "make train export" as a job; mount /data and /output
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS service-build
# Behind a proxy with a certificate authority of its own: mount its file and name it here.
ARG PIP_CERT=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/service.txt /requirements.txt
RUN python3 -m venv /venv \
    && PIP_CERT=${PIP_CERT} /venv/bin/pip install --no-deps --require-hashes -r /requirements.txt

FROM service-build AS training-build
COPY requirements/training.txt /requirements.txt
RUN PIP_CERT=${PIP_CERT} /venv/bin/pip install --no-deps --require-hashes -r /requirements.txt

FROM ${BASE} AS training
COPY --from=training-build /venv /venv
WORKDIR /app
COPY service service
COPY training training
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 CIFAR100_DIR=/data
RUN useradd --create-home --uid 10001 app && mkdir /output && chown app /output
USER app
VOLUME ["/data", "/output"]
ENTRYPOINT ["sh", "-c", "python3 -m training train --runs /output/runs \"$@\" && python3 -m training export --runs /output/runs --models /output/exported_models", "--"]

FROM ${BASE} AS service
COPY --from=service-build /venv /venv
WORKDIR /app
COPY service service
COPY exported_models exported_models
RUN /venv/bin/python -m compileall -q service && useradd --no-create-home --uid 10001 app
USER app
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 HOST=0.0.0.0 PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health/ready', timeout=2)"]
ENTRYPOINT ["python3", "-m", "service"]
