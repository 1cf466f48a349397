"""Optional packages of each extra, and the command that installs them."""

# The packages of each extra in pyproject.toml beyond minrl's own dependencies. Hints name packages, as an extra such as
# "minrl[onnx]" needs a checkout.
PACKAGES = {
    "mujoco": ("gymnasium[mujoco]",),
    "robotics": ("gymnasium-robotics", "gymnasium[mujoco]"),
    "d4rl": ("d4rl",),
    "box2d": ("gymnasium[box2d]",),
    "popgym": ("popgym",),
    "arrow": ("pyarrow",),
    "plot": ("matplotlib",),
    "ray": ("ray",),
    "compare": ("scipy", "matplotlib"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "peers": ("rsl-rl-lib",),
    "bench": ("gymnasium[mujoco]", "matplotlib", "transformers", "mambapy", "sb3-contrib", "jax"),
}


def install_hint(extra: str) -> str:
    """Return the command that installs the packages of an extra, ready to be pasted into a shell."""
    names = (f"'{name}'" if "[" in name else name for name in PACKAGES[extra])
    return f"pip install {' '.join(names)}"
