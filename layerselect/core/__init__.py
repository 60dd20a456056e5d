"""One step of a selector: from gradients to scores, selection and history, on the host or on a device."""
