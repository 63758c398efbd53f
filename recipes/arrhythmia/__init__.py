"""Ventricular arrhythmia detection on single-lead implantable-defibrillator electrograms."""
