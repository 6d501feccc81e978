# hfft with its Space: docker build -t hfft . && docker run -p 7860:7860 -v "$PWD/outputs:/home/hfft/outputs" hfft
# Any other command: docker run -v "$PWD:/home/hfft/work" hfft finetune --train_dir work/photos --output_dir work/run
FROM python:3.12-slim

# Where PyTorch's wheels for a CPU or a CUDA version are; empty takes the default, which brings CUDA along.
ARG TORCH_INDEX=""

RUN useradd --create-home --uid 1000 hfft
WORKDIR /opt/hfft
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision; fi
COPY pyproject.toml README.md LICENSE ./
COPY hfft hfft
COPY plugins plugins
RUN pip install --no-cache-dir ".[demo,mcp,onnx,space]"

USER 1000
WORKDIR /home/hfft
EXPOSE 7860
HEALTHCHECK --start-period=120s --interval=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=5)"]
ENTRYPOINT ["hfft"]
CMD ["space", "--host", "0.0.0.0", "--port", "7860"]
