"""The pieces of the statistics: cells and streams, interval formulas, effects, wider levels."""
