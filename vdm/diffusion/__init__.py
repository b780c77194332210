"""The mathematics of variational diffusion: pure functions of arrays.

omega = -log SNR throughout (the VDM paper's gamma, minus the lambda of other papers);
alpha^2 = sigmoid(-omega), sigma^2 = sigmoid(omega). Everything is in nats per example.

A map for reading this package alongside the VDM paper, in the paper's order:

    3.1 forward process, Eq. 1-2           noise.alpha, sigma, snr, diffuse
        q(z_t|z_s), Eq. 20-22              noise.transition
        q(z_s|z_t,x), Eq. 23-25            noise.posterior
    3.2 learned schedule                   vdm.nn.schedules.Monotone
        what any schedule allows           schedule_algebra.omega_dot, inverse, density, next_omega
    3.3 p(x|z_0) of integer codes          likelihood.Discretised, discretised_log_prob
        reverse process, Eq. 31-33         samplers.ancestral, run_chain
    3.4 the network predicts eps           predictions.convert (and x, v, score, next mean)
        Fourier features                   vdm.nn.embeddings.fourier_features
    3.5 the bound, Eq. 11                  elbo.ElboTerms, estimate_elbo, prior_matching
    4   T steps, Eq. 12-14                 elbo.noise_levels, denoising_matching (num_steps = T)
    4.1 more steps, a tighter bound        exact.GaussianData.denoising_term_of_steps
    5   continuous time, Eq. 15-17         elbo.noise_levels, denoising_matching (num_steps = 0)
    5.1 only the ends matter, Eq. 18-19    schedule_algebra.retimed, between, stretched
    5.2 weighted losses, not bounds        weightings.simple, min_snr, sigmoid
    5.3 schedule of least variance         schedule_algebra.optimal, from_density
    I.1 low-discrepancy times              timesteps.low_discrepancy, step_interval

and for what goes beyond the paper:

    the consistency form of the bound      consistency.path_terms, random_level_terms
    learned hierarchies: VAE, HVAE, DDPM   hierarchy.negative_elbo, log_weight
    importance-weighted bound              bounds.path_log_weight, importance_bound
    probability-flow ODE, its density      ode.flow_log_density, bounds.probability_flow_bound
    the mixture kernel, fitted variances   kernels.Mixture, FittedGaussian
    p(code k | z_t), the network's decoder codes.code_log_probs, log_prob_of
    levels of T steps by their cost        least_bound.choose, StepCosts
    data with known denoiser and bound     exact.GaussianData, MixtureData, FiniteData
    DDIM, Heun, DPM-Solver++, SDE          samplers.ddim, heun, dpm_solver, euler_maruyama
    codes drawn from p(code | z_t)         samplers.mixture_ancestral
    adaptive ODE sampler; step placement   flow.flow; grids.equal_times, equal_omegas, karras
    score matching, Langevin dynamics      score_matching, langevin.annealed_langevin
    guidance                               guidance.classifier_free, classifier

Papers that docstrings name, here and in the other packages:
    VDM    Kingma, Salimans, Poole & Ho 2021, arXiv:2107.00630
    VDM++  Kingma & Gao 2023, arXiv:2303.00848
    DDPM   Ho, Jain & Abbeel 2020, arXiv:2006.11239
    DDIM   Song, Meng & Ermon 2020, arXiv:2010.02502
    Luo    Luo 2022, arXiv:2208.11970
    MuLAN  Sahoo et al. 2023, arXiv:2312.13236
S0 ... S4 are five documents whose numbered equations experiments/equations/README.md lists.
"""
