"""S2: a translation of Luo 2022 with a section on the learned SNR, scores and guidance.

S2 prints no numbers. These are those that its own references count by ("formula 54", "(64)"): every
line that LaTeX would number, so none of a bare $$ or of align*, none with \\nonumber, and an inner
`aligned` as one. What S1 has too is tested there.
"""

from experiments.equations.index import spread

NUMBERED = [f"S2 {number}" for number in range(1, 114)]

STATEMENTS = {
    "S2 55": "KL of two normal distributions in D dimensions",
    "S2 62": "the sum of all steps' terms is an expectation over a random step",
    "S2 63": "a term's weight of ‖x̂ − x‖² as a difference of ᾱ / (1 − ᾱ)",
    "S2 64": "SNR(t) = α_t² / σ_t²",
    "S2 65": "a term's weight of ‖x̂ − x‖² is (SNR(s) − SNR(t)) / 2",
    "S2 66": "SNR(t) = exp(−ω(t))",
    "S2 67": "the sum of all terms with that weight, as an expectation over a random step",
    "S2 68": "α_t² / σ_t² = exp(−ω)",
    "S2 69": "α_t² = sigmoid(−ω)",
    "S2 70": "σ_t² = sigmoid(ω)",
    "S2 77": "Tweedie: E[α_t x|z_t] = z_t + σ_t² ∇log q(z_t)",
    "S2 81": "the posterior mean from the score (in the mean given z_t)",
    "S2 82": "μ_θ from the network's score",
    "S2 84": "a term's weight of the squared error of the conditional score; of the marginal one "
    "it is that up to a constant, in the mean given z_t",
    "S2 95": "score = −ε / σ_t: of q(z_t|x), not of q(z_t)",
    "S2 99": "the score of exp(−f) / Z is −∇f, whatever Z",
    "S2 101": "Fisher divergence E ‖s_θ − ∇log p‖² (half of it here)",
    "S2 102": "Langevin dynamics: x + c ∇log p(x) + √(2c) ε",
    "S2 103": "density of the data with noise of one level added",
    "S2 104": "score matching summed over a ladder of noise levels",
    "S2 108": "∇log p(z_t|y) = ∇log q(z_t) + ∇log p(y|z_t)",
    "S2 109": "classifier guidance: the second part γ times",
    "S2 110": "the classifier's gradient as a difference of scores",
    "S2 111": "classifier-free guidance, from the difference",
    "S2 113": "classifier-free guidance: γ ∇log p(z_t|y) + (1 − γ) ∇log q(z_t)",
}

NOT_COMPUTABLE = spread(
    "S2",
    {
        "1 to 2": "as S1 1.1 and 1.2",
        "3 to 4": "as S1 1.6",
        "5 to 8": "as S1 1.3 to 1.6",
        "9 to 16": "as S1 1.9 to 1.16",
        "17 to 19": "as S1 1.18 to 1.20",
        "20 to 21": "as S1 1.21 and 1.22",
        "22": "as S1 1.24, without 1/L; see the errata",
        "23 to 24": "as S1 1.26 and 1.27",
        "25 to 28": "as S1 1.28 to 1.31",
        "29": "as S1 1.32",
        "30 to 31": "as S1 1.33 and 1.34, the latter right here",
        "32 to 33": "as S1 1.35",
        "34": "as S1 1.39",
        "35": "as S1 1.47, with its error; see the errata",
        "36": "as S1 1.50",
        "37": "as S1 1.51",
        "38": "as S1 1.62",
        "39 to 40": "as S1 1.63",
        "41 to 50": "as S1 1.64 to 1.73",
        "51 to 53": "as S1 1.74, 1.75 and 1.87",
        "54": "as S1 1.89",
        "56 to 57": "as S1 1.90 and 1.95",
        "58": "as S1 1.88",
        "59": "as S1 1.96",
        "60 to 61": "as S1 1.90 and 1.100",
        "71": "as S1 1.105",
        "72 to 73": "as S1 1.88 and 1.114",
        "74": "as S1 1.115",
        "75 to 76": "as S1 1.90 and 1.119",
        "78 to 79": "as S1 1.124 and 1.125, with their error",
        "80": "as S1 1.88",
        "83": "as S1 1.90",
        "85 to 92": "repeats 77 to 84",
        "93 to 94": "as S1 1.141 and 1.142, with their error",
        "96": "definition of an energy-based model",
        "97 to 98": "derivation of 99",
        "100": "definition of a score network",
        "105": "definition of a conditional model",
        "106 to 107": "derivation of 108",
        "112": "derivation of 113",
    },
)
