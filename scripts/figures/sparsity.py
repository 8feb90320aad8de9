"""Students that are given only a part of the teacher's distributions, drawn as the objectives are (objectives.py)."""

from scripts.figures.objectives import draw as draw
