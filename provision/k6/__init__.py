"""Between our scenario files and k6: `script` writes one for k6, `options` takes over a k6 configuration."""
