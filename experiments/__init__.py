"""Experiments with the library, one folder for each question. They import vdm; vdm never imports
them."""
