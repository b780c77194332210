"""The mathematics of variational diffusion: pure functions of arrays.

omega = -log SNR throughout (the VDM paper's gamma, minus the lambda of other papers);
alpha^2 = sigmoid(-omega), sigma^2 = sigmoid(omega). Everything is in nats per example.

Papers that docstrings name, here and in the other packages:
    VDM    Kingma, Salimans, Poole & Ho 2021, arXiv:2107.00630
    VDM++  Kingma & Gao 2023, arXiv:2303.00848
    DDPM   Ho, Jain & Abbeel 2020, arXiv:2006.11239
    DDIM   Song, Meng & Ermon 2020, arXiv:2010.02502
    Luo    Luo 2022, arXiv:2208.11970
    MuLAN  Sahoo et al. 2023, arXiv:2312.13236
S0 ... S4 are the documents whose equations experiments/equations/README.md lists by number.
"""
