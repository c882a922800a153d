"""List the packages: those of sslsv/, and the settings and search spaces that lie beside it."""

from setuptools import find_namespace_packages, find_packages, setup

beside = find_namespace_packages(include=["configs", "configs.*", "tune_spaces", "tune_spaces.*"])
setup(packages=[*find_packages(include=["sslsv", "sslsv.*"]), *(f"sslsv.{name}" for name in beside)])
