"""Single instructions as a real processor ran them, and as the machine of this project runs
them.
"""
