# Two images from one file: `--target operator` (no torch) and `--target trainer` (torch, compiler).
# Builds with Docker and with buildah. BASE_IMAGE is any image with Python 3.11 to 3.13 and apt.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN groupadd --gid 65532 adts && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp adts
WORKDIR /opt/adts
COPY constraints.txt LICENSE ./

FROM base AS operator
# Third-party packages first: they change less often than our code.
RUN python3 -m pip install -c constraints.txt pydantic PyYAML kopf kubernetes aiohttp click prometheus-client rich setuptools
COPY crds crds
COPY operator operator
RUN python3 -m pip install --no-deps --no-build-isolation ./crds ./operator
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["adts"]

FROM base AS trainer
# torch.compile and DeepSpeed compile C++ at run time: compiler and headers stay in the image.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python3 -m pip install -c constraints.txt torch
RUN python3 -m pip install -c constraints.txt \
      pydantic PyYAML numpy safetensors tokenizers tensorboard matplotlib prometheus-client aiohttp click rich setuptools
COPY crds crds
COPY trainer_image trainer_image
RUN python3 -m pip install --no-deps --no-build-isolation ./crds ./trainer_image
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["python3", "-m", "adts_trainer"]
