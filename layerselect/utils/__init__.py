"""What any room may need: values of others, files of others, amounts, copies between host and device."""
