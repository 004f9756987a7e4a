"""Strangers load `model/`, each in a process of its own, and compare what they compute."""
