# With CUDA (the host needs NVIDIA's driver and container toolkit), or for CPUs alone:
#   docker build -t sslsv .
#   docker build -t sslsv:cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
# Data and runs stay in your folder; the last line needs no GPU:
#   docker run --rm -v "$PWD":/work sslsv prepare_data demo data/demo
#   docker run --rm --gpus all --shm-size 8g -v "$PWD":/work sslsv train configs/demo.yml
#   docker run --rm --shm-size 8g -v "$PWD":/work sslsv:cpu train configs/demo.yml
FROM python:3.12-slim
# wget: Kubernetes asks with it whether Ray is alive.
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=
WORKDIR /sslsv
COPY requirements.txt .
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" $(grep -oE '^torch[^ ]+' requirements.txt); fi \
    && pip install --no-cache-dir -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps -e .
WORKDIR /work
ENTRYPOINT ["sslsv"]
