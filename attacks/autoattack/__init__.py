"""AutoAttack: APGD, FAB, Square and their ensemble (Croce & Hein 2020, arXiv:2003.01690)."""
