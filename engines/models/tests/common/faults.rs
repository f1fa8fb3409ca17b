//! Every fault there is, at several places.

use bitnet_models::{FAULTS, Fault, FaultClass};

/// A value that each class takes and no model has.
fn value(class: &FaultClass) -> Option<f32> {
    class.value.map(|_| match class.name {
        "rope-base" => 5000.0,
        "rms-eps" => 0.01,
        _ => 2.0,
    })
}

/// Whether a model without sub-norms (`llama`) or with them, and with squared ReLU (`bitnet-b1.58`), can have it.
fn fits(fault: &Fault, bitnet: bool) -> bool {
    match bitnet {
        true => fault.class.name != "squared-relu",
        false => fault.class.name != "silu" && !fault.stages()[0].ends_with("sub_norm"),
    }
}

/// Each class at each of `places` (layer, first position), and at every stage that it can be given at the first of them.
/// Without a causal mask, the record of the last token in a batch is right: a place is left out for which `last` is true.
pub fn every_fault(bitnet: bool, places: &[(usize, usize)], last: impl Fn(usize) -> bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    for class in FAULTS {
        let at = |(layer, from), stage| Fault {
            class,
            value: value(class),
            layer: Some(layer),
            from,
            stage,
        };
        faults.extend(places.iter().map(|&place| at(place, None)));
        faults.extend(class.elsewhere.iter().map(|&stage| at(places[0], Some(stage))));
    }
    faults.retain(|fault| fits(fault, bitnet) && !(fault.class.name == "no-causal-mask" && last(fault.from)));
    for fault in &mut faults {
        if fault.first_shown().1 < 0 {
            fault.layer = None;
        }
    }
    faults
}
