"""OpenS2S: a speech language model (arXiv 2507.05177), and getting its weights."""
