"""Pure tensor maths without state: tokens, coordinates, rotary embedding, schedules, blending."""
