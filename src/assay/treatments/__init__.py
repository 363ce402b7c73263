"""treatments"""
