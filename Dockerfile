# SGLang with this package on CUDA: `docker build -t sglang-nemotron .`; see docs/docker.md.
# devel: kernels are compiled at their first use, which needs a C compiler, and for some nvcc
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04
FROM ${CUDA_IMAGE}

# Python.h for what Triton compiles; libnuma for SGLang's kernels
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 python3.12 python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/*

RUN python3.12 -m venv /opt/sglang
ENV PATH=/opt/sglang/bin:${PATH}

# every package is in the lock, so nothing is to be resolved; before the sources, whose changes then cost seconds
COPY requirements/lock-py312.txt /build/requirements/lock-py312.txt
RUN pip install --no-cache-dir --no-deps -r /build/requirements/lock-py312.txt

COPY pyproject.toml README.md LICENSE /build/
COPY src /build/src
RUN pip install --no-cache-dir --no-deps /build

# no root; models are fetched into a volume
RUN useradd --create-home --uid 2000 serve && mkdir -p /models && chown serve /models
USER serve
ENV HF_HOME=/models
VOLUME /models
EXPOSE 30000

# a first start fetches the weights
HEALTHCHECK --interval=30s --timeout=20s --start-period=60m \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:30000/health', timeout=15)"]

ENTRYPOINT ["sglang", "serve", "--host", "0.0.0.0", "--port", "30000"]
CMD ["--model-path", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "--reasoning-parser", "nano_v3", "--tool-call-parser", "qwen3_coder"]
