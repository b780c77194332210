"""S1: from the evidence bound to DDPM; its alpha_bar is alpha^2 here, its x_t is z_t."""

NUMBERED = [f"S1 1.{number}" for number in range(1, 155) if number != 147]  # it skips 1.147

STATEMENTS = {
    "S1 1.63": "z_t = α_{t\\|s} z_s + σ_{t\\|s} ε, one step of noise",
}

NOT_COMPUTABLE: dict[str, str] = {}
