# Four images from one file; each holds the pinned packages of requirements/ that it needs, no more.
#
#   docker build .                                              the service on CPUs (target service)
#   docker build --target service-gpu .                         the service on an NVIDIA GPU
#   docker build --target training .                            train and export, as a job
#   docker build --target training --build-arg BACKEND=jax .    the same, trained on an NVIDIA GPU
#
# BASE is any Debian-like image with python3 (3.11 to 3.13) and its venv module. A network with a
# certificate authority of its own: --secret id=ca,src=FILE --build-arg PIP_CERT=/run/secrets/ca.
ARG BASE=python:3.12-slim-bookworm

# What installs stays here: the environments that are copied out of it hold no pip.
FROM ${BASE} AS tools
RUN python3 -m venv /tools && python3 -m venv --without-pip /venv
# Bytecode that is trusted as it is, whatever the files' times: neither a layer's fixed timestamps
# nor a read-only file system makes the service compile at every start.
ENV PIP="/tools/bin/pip --python /venv/bin/python --no-cache-dir --disable-pip-version-check \
    install --no-deps --require-hashes --only-binary :all: --no-compile -r" \
    COMPILE="/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash"

FROM tools AS service-venv
COPY requirements/service-cpu.txt /requirements.txt
ARG PIP_CERT=
# A quarter of it serves nobody here: tests, tools to make models, a second build of the runtime for
# programs in C.
RUN --mount=type=secret,id=ca PIP_CERT=${PIP_CERT} ${PIP} /requirements.txt \
    && cd /venv/lib/python3*/site-packages \
    && find . -type d -name tests -prune -exec rm -r {} + \
    && (cd onnxruntime && rm -r capi/libonnxruntime.so.* quantization tools transformers) \
    && ${COMPILE} /venv

# Other models: --build-context models=FOLDER.
FROM scratch AS models
COPY exported_models /

FROM tools AS service-app
COPY service /app/service
RUN ${COMPILE} /app
COPY --from=models / /app/exported_models
# Whatever the checkout's modes: another user than root reads it.
RUN chmod -R a+rX /app

# The user is a number, so that an orchestrator can see that it is not root.
FROM ${BASE} AS base
RUN useradd --no-create-home --shell /usr/sbin/nologin --uid 10001 app && mkdir /app
# The standard library's bytecode, which the slim Python images leave out.
RUN python3 -c "import compileall, sysconfig, re; compileall.compile_dir( \
    sysconfig.get_path('stdlib'), quiet=2, workers=0, rx=re.compile('/(test|tests|idlelib|lib2to3)/'))"
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app

FROM base AS service-base
LABEL org.opencontainers.image.title=batchnorm-service org.opencontainers.image.licenses=MIT
ENV HOST=0.0.0.0 PORT=8000
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python3", "-ISc", "\
import os, socket; \
s = socket.create_connection(('127.0.0.1', os.environ['PORT']), 2); \
s.sendall(b'GET /health/ready HTTP/1.0\\r\\n\\r\\n'); \
raise SystemExit(s.recv(64).split()[1:2] != [b'200'])"]
ENTRYPOINT ["python3", "-m", "service"]

FROM service-base AS service
COPY --from=service-venv /venv /venv
COPY --from=service-app /app /app

FROM tools AS service-gpu-venv
COPY requirements/service-gpu.txt /requirements.txt
ARG PIP_CERT=
RUN --mount=type=secret,id=ca PIP_CERT=${PIP_CERT} ${PIP} /requirements.txt && ${COMPILE} /venv

FROM service-base AS service-gpu
COPY --from=service-gpu-venv /venv /venv
COPY --from=service-app /app /app
ENV REQUIRE_GPU=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM tools AS training-venv
ARG BACKEND=tensorflow
COPY requirements/training-${BACKEND}.txt /requirements.txt
ARG PIP_CERT=
RUN --mount=type=secret,id=ca PIP_CERT=${PIP_CERT} ${PIP} /requirements.txt && ${COMPILE} /venv

FROM tools AS training-app
COPY service /app/service
COPY training /app/training
COPY deploy/train_and_export.sh /app/
RUN ${COMPILE} /app && chmod -R a+rX /app

FROM base AS training
LABEL org.opencontainers.image.title=batchnorm-training org.opencontainers.image.licenses=MIT
ARG BACKEND=tensorflow
ENV KERAS_BACKEND=${BACKEND} CIFAR100_DIR=/data OUTPUT_DIR=/output
RUN mkdir /output && chown 10001:10001 /output
COPY --from=training-venv /venv /venv
COPY --from=training-app /app /app
USER 10001:10001
VOLUME ["/data", "/output"]
ENTRYPOINT ["/app/train_and_export.sh"]

# The last stage is what is built where no target is named.
FROM service
