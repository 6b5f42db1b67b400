"""What a person sees: terminal text. JSON documents come from the results themselves."""
