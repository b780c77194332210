"""Eight simulated CPU devices for every test; must run before any JAX backend starts."""

import os

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# One compilation cache for all test processes and runs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(".jax_cache"))
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

import hypothesis  # noqa: E402

hypothesis.settings.register_profile("vdm", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("vdm")
