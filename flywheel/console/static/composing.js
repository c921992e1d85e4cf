// Whether a key belongs to an input method that composes characters: Enter then takes what it offers.
// WebKit ends the composition just before the key that ends it, and tells by the key's code alone.
export const composing = (event) => event.isComposing || event.keyCode === 229;
