"""torchvision's detectors over timm backbones: how they are built, what they lose in training, what they find."""
