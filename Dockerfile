# docker build --target cpu -t vit-toolkit .
# docker build --target gpu -t vit-toolkit:gpu .                          run with: docker run --gpus all ...
# docker build --target gpu --build-arg EXTRAS=tensorrt -t vit-toolkit:trt .
#
# docker run --rm -v "$PWD:/data" vit-toolkit run --run runs/demo

FROM python:3.11-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1
WORKDIR /opt/vit-toolkit

# The dependencies alone first: a layer of gigabytes that a change of our code leaves in the cache.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib as t; print(*t.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && pip install -c constraints.txt -r requirements.txt

# Folder by folder: COPY keeps the symlinks inside toolkit/, which point to the three folders beside it.
COPY README.md LICENSE ./
COPY kernels kernels
COPY export export
COPY bench bench
COPY toolkit toolkit
RUN pip install -c constraints.txt .

RUN useradd --create-home --uid 1000 toolkit && install -d -o toolkit -g toolkit /data
WORKDIR /data
ENTRYPOINT ["toolkit"]
CMD ["--help"]

# The wheels bring CUDA; from the host comes the driver, through NVIDIA's container runtime.
FROM base AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Triton compiles the code that starts its kernels with the machine's C compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ARG EXTRAS=""
RUN if [ -n "$EXTRAS" ]; then cd /opt/vit-toolkit && pip install -c constraints.txt ".[$EXTRAS]"; fi
USER toolkit

FROM base AS cpu
USER toolkit
