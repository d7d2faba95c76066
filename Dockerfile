# The image of a cluster's machines: Ray's own of the tested version, with textray and exactly the libraries that its tests pass with.
#   docker build -t textray .
#   docker run --rm textray textray doctor
# Installing for each job would take 20 s and 2 GB a machine. `ray job submit --working-dir .` brings newer code of yours, which goes before this.
FROM rayproject/ray:2.60.0-py311-gpu

# pip's own choice of torch brings CUDA with it; the rest of the machine's CUDA is the driver, which the host gives.
COPY --chown=ray pyproject.toml constraints.txt README.md LICENSE /home/ray/textray/
COPY --chown=ray models /home/ray/textray/models
COPY --chown=ray pipelines /home/ray/textray/pipelines
COPY --chown=ray tuning /home/ray/textray/tuning
COPY --chown=ray textray /home/ray/textray/textray
COPY --chown=ray recipes /home/ray/textray/recipes
RUN python -m pip install --no-cache-dir --constraint /home/ray/textray/constraints.txt "/home/ray/textray[onnx,postgresql,hf]"

WORKDIR /home/ray
ENV PYTHONUTF8=1 RAY_USAGE_STATS_ENABLED=0
CMD ["textray", "--help"]
