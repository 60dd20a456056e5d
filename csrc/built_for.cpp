// Says which torch this library was compiled for, in text that layerselect/_built_for.py finds without loading it.
#ifndef LAYERSELECT_BUILT_FOR
#error "setup.py passes LAYERSELECT_BUILT_FOR"
#endif

namespace layerselect {

// `used`: no code refers to it.
__attribute__((used)) extern const char built_for[] = LAYERSELECT_BUILT_FOR;

}  // namespace layerselect
